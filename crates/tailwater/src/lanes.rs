//! Order and re-sending: what is unsettled goes again, in order, through a new publisher.
