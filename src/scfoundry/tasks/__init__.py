"""What is done with a model: numeric cores that ask it for what it can do, and the objects they leave."""
