"""What an implementation's answers mean: equal, within the budget or wrong; which component; which known mistake."""
