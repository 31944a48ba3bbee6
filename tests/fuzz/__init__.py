"""Fuzzing under coverage guidance: `make fuzz` (atheris, which is installed when first asked for).

Every verifier and parser is a target (`targets.py` says which are not). Those of webhooks are made
from the payload files of tests/providers: the fuzzer changes bodies, which are then signed with the
case's key so that parsers are reached, and whole signed requests. Any error but those that the
ingress answers with 400 or 403 is a crash; of the other targets, any error but their own kind's.
"""
