"""What training does against memorising, and what it proves."""
