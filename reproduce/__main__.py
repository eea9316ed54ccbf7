"""`python -m reproduce` is the `reproduce` command."""

from __future__ import annotations

from reproduce.commands.cli import main

raise SystemExit(main())
