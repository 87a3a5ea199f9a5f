"""Hold the parts of the result of an audit as plain frozen values. `audit.result` puts them together."""
