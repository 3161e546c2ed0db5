"""Embeddings: relayed to Azure OpenAI deployments."""
