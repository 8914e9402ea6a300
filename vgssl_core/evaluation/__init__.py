"""How well it works: protocols, Recall@N and other metrics, figures, the report."""
