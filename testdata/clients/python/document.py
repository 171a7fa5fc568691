"""Python's requests: prints the body of each URL on a line of its own. One session, so one connection."""

import sys

import requests

with requests.Session() as session:
    for url in sys.argv[1:]:
        answer = session.get(url, headers={"Metadata": "true"}, timeout=30)
        answer.raise_for_status()
        print(answer.text)
