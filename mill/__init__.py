"""Mill runs short-lived containers and says truly how each one ended. See `mill.client` for programs."""

__version__ = "0.1.0"
