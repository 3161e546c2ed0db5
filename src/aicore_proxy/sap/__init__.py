"""SAP's management plane: credentials, tokens, the AI API, discovery."""
