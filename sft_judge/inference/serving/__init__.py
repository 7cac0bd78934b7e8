"""
HTTP server of a judge: our own app on vLLM's asynchronous engine.

vLLM's server has an entry-point group for additional routes. It is not used, because vLLM's own two dozen routes come
first there: closing the server would mean to find and forbid each of them, in every version. In our own app only the
routes that we define exist. `--with-openai` adds a few of vLLM's routes behind the same API key.
"""
