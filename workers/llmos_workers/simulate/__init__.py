"""The simulator engine: an OpenAI-compatible server with vLLM's metrics and a model of its timing, without a GPU."""
