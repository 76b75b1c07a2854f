"""Speed and accuracy against the floor and against the alternatives; nothing passes or fails."""
