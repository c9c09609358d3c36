package headwater.flink.tiles;

/**
 * Where a row stands among others: by event time, and of rows of one time by where its version lies in the topic.
 */
record Position(long time, int partition, long offset) implements Comparable<Position> {
    @Override
    public int compareTo(Position other) {
        int byTime = Long.compare(time, other.time);
        if (byTime != 0) {
            return byTime;
        }
        int byPartition = Integer.compare(partition, other.partition);
        return byPartition != 0 ? byPartition : Long.compare(offset, other.offset);
    }
}
