"""
Errors, verdict order, atomic files, manifests and the registry of commands. Imports no other folder of the package.
"""
