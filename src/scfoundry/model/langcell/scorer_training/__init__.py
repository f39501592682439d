"""How the scorer on standardised expression is trained: labelled studies, augmented cells, texts, types, markers."""
