"""What is done with a model: numeric cores that ask it for what it can do, and the objects they leave."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
