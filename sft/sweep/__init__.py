"""One recipe at many points: ``spec`` says which, ``run`` runs all, ``point`` runs one, ``records`` keeps them."""
