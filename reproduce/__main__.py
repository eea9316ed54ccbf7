"""`python -m reproduce` is the `reproduce` command."""

from __future__ import annotations

from reproduce.cli import main

raise SystemExit(main())
