"""The embedded stack: Kafka, Flink and the processes of Headwater on one machine, with nothing to install."""
