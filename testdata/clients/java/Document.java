import java.io.InputStream;
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;

/**
 * Java's two clients as they come: HttpClient (on SocketChannel, asks for an upgrade to HTTP/2) and HttpURLConnection (on
 * java.net.Socket). Both use dual-stack sockets. Prints the body of each URL on a line of its own, first from the one, then
 * from the other.
 */
public class Document {
    public static void main(String[] urls) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (String url : urls) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(url)).header("Metadata", "true").build();
            HttpResponse<String> response = client.send(request, HttpResponse.BodyHandlers.ofString());
            print(response.statusCode(), response.body());
        }
        for (String url : urls) {
            HttpURLConnection connection = (HttpURLConnection) URI.create(url).toURL().openConnection();
            connection.setRequestProperty("Metadata", "true");
            try (InputStream body = connection.getInputStream()) {
                print(connection.getResponseCode(), new String(body.readAllBytes(), StandardCharsets.UTF_8));
            }
        }
    }

    private static void print(int status, String body) {
        if (status != 200) {
            throw new IllegalStateException(status + " " + body);
        }
        System.out.println(body);
    }
}
