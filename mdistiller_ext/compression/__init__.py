"""What distillation gained: accuracy, size and speed of students beside those of their teachers."""
