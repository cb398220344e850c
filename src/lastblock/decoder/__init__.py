"""The pretrained decoder: GPT-2 and the Llama family. Knows no labels and no text."""
