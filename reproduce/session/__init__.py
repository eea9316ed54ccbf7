"""One pytest session over suites: options, cases, plan, display."""
