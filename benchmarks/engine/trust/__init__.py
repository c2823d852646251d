"""What streams do to methods that learn from them: images of long streams, attacks, and what is measured."""
