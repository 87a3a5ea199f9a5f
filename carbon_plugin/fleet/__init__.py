"""Account for thousands of runs: ledgers are compacted once into Parquet, and reports are queries over it.

`ingest` reads ledgers with the audit's own pass and writes a store; `report` answers from a store with DuckDB or Spark.
"""
