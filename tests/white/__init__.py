"""C programs that include a room of src/ and compare it with a model: make white."""
