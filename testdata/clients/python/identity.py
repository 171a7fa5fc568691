"""Python's azure-identity: prints a token for each scope, as an application with a managed identity gets it."""

import sys

from azure.identity import ManagedIdentityCredential

with ManagedIdentityCredential() as credential:
    for scope in sys.argv[1:]:
        print(credential.get_token(scope).token)
