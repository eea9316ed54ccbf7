"""The harness: stages, store, engine, data, evaluation and tables. It knows no paper."""
