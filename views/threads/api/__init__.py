"""JSON API of threads, and OpenAI's APIs on the same tables."""
