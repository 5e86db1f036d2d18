"""Questions and answers as files and lines, for a Llama in any language: the suite's questions, and its own judge."""
