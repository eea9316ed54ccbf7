"""What papers print and claim, and what became of it: tables, claims, verdicts, records."""
