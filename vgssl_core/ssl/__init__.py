"""Self-supervised methods (torch), one module each; `method` holds what they share."""
