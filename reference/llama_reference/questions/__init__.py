"""What an implementation is asked: checks with a right answer, properties without, and the steps of a real run."""
