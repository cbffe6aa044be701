//! JSON lines on standard output: one object per message. Durable once written and flushed.
