"""What looks inside: the proof that nothing leaks, drawn masks, conversations token by token, where answers look."""
