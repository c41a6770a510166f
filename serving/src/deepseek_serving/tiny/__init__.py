"""A tiny DeepSeek-VL of the real class, trained from drawn shapes in about two minutes on one core."""
