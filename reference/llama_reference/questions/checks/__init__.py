"""The questions: each NAME.ask(implementation, case) gives the answers to compare, by label."""
