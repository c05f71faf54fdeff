"""How runs compare: ``rows`` reads them, ``text`` is for a terminal and for other programs, ``page`` and its ``charts``
are for people."""
