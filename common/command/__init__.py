"""What a person types: the commands of a program, and the flags that both share."""
