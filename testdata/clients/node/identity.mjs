// JavaScript's @azure/identity: prints a token for each scope, as an application with a managed identity gets it.
import { ManagedIdentityCredential } from "@azure/identity";

const credential = new ManagedIdentityCredential();
for (const scope of process.argv.slice(2)) console.log((await credential.getToken(scope)).token);
