"""What each command can be told: dataclasses, whose fields are its flags; none imports jax."""
