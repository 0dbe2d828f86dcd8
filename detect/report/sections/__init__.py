"""What the report says, a section a module."""
