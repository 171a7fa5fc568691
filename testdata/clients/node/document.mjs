// Node's own fetch: prints the body of each URL on a line of its own.
for (const url of process.argv.slice(2)) {
  const answer = await fetch(url, { headers: { Metadata: "true" } });
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  console.log(await answer.text());
}
