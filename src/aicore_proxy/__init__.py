"""An LLM proxy for SAP AI Core: OpenAI, Anthropic and Gemini clients on every model family."""

__version__ = "0.1.0"
