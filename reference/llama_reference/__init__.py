"""The standard that a Llama is held to: transformers (oracle), the papers' equations in float64 (formula), the budget
for rounding between them, and the questions (checks). Nothing here imports the package under test.
"""
