"""The experiments of jaxnets; `python -m experiments --help` lists them."""
