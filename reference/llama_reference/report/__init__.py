"""What a person reads: the table, notes, pages, and the pytest plugin that collects them."""
