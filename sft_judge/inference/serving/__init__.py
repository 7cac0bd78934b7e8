"""
The HTTP judge: one app of ours, over vLLM's asynchronous engine.

vLLM's server has an entry-point group for foreign routes. We do not use it: with it, vLLM's own two dozen routes stand
first and ours are added, so closing the server means to find and forbid each of them, in every version. Here the app
is ours, and what is not named in it does not exist; `--with-openai` puts a few of vLLM's routes behind the same key.
"""
