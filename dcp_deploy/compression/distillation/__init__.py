"""Distillation: the student learns to generate the images of its teacher."""
