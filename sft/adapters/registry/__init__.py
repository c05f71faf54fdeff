"""Model registries. Every module here has one function: ``register(settings, model) -> RegisteredModel``."""
