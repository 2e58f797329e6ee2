"""The example project and the commands, run as a user runs them."""
