"""Keep the threads of this package out of the way of the training beside them."""
