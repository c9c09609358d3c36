/* The rules of jobs/retraining/ownership.py and claims.py, without time, for every order in which things can happen.

   What members say may be heard at any later time, or never. Nothing here says when: who has stood, owned and claimed
   has done so for good, and whoever acts on it acts as late as it likes. Time comes in at one place, which is what
   leases and the waiting of voters are for: a voter is free to vote again only when no owner counts on it.

   There is one incident. The training platform makes a run of each request that comes, and shows it only then. From
   there on nobody asks again, so that a second request can only be made while the first is under way: it never comes.

   spin -a -DREGIONS=3 -DWITNESSES=0 -DEPOCHS=2 ownership.pml; cc -O2 -DSAFETY -DCOLLAPSE -o pan pan.c; ./pan -m1000000
   Without a rule (-DNO_LEASE, -DNO_COMMIT, -DNO_CATCH_UP, -DNO_HIDING, -DNO_EPOCHS or -DHALF) an assertion fails. */

#ifndef REGIONS
#define REGIONS 2
#endif
#ifndef WITNESSES
#define WITNESSES 1
#endif
#ifndef EPOCHS
#define EPOCHS 3
#endif
#define N (REGIONS + WITNESSES)
#define NOBODY N
#ifdef HALF
#define MAJORITY (N / 2)
#else
#define MAJORITY (N / 2 + 1)
#endif
#ifdef NO_LEASE
#define MAY_VOTE(v) true
#else
#define MAY_VOTE(v) HAS(free, v)
#endif
#ifdef NO_EPOCHS
#define NEWER(e, v) (e >= promised[v])
#else
#define NEWER(e, v) (e > promised[v])
#endif
#ifdef NO_CATCH_UP
#define CATCHES_UP false
#else
#define CATCHES_UP true
#endif
#ifdef NO_COMMIT
#define COMMITS false
#else
#define COMMITS true
#endif
#ifdef NO_HIDING
#define HIDES false
#else
#define HIDES true
#endif

/* Sets of members are bits. */
#define HAS(set, x) (((set) >> (x)) & 1)
#define ADD(set, x) set = set | (1 << (x))
#define DROP(set, x) set = set & ~(1 << (x))
#define MANY(set) (HAS(set, 0) + HAS(set, 1) + HAS(set, 2) + HAS(set, 3) + HAS(set, 4) >= MAJORITY)

mtype = { follower, candidate, owner };

byte promised[N];           /* newest epoch it has voted in, or heard an owner of */
byte granted[N];            /* whom it listens to in that epoch */
byte free;                  /* on whom nobody counts any more */
byte stood[REGIONS];        /* in which epochs, for good */
byte owned[EPOCHS + 1];     /* by whom, for good */
mtype role[N];              /* of the process that runs, in the epoch it has promised */
byte votes[REGIONS];        /* for it, while it is a candidate */
byte told;                  /* candidates of whose voters one held the claim */
byte knows;                 /* who holds the claim of the incident */
byte fresh;                 /* who has claimed it with nobody before, and has not asked for it yet */
byte rely[REGIONS];         /* on whom an owner counts */
bit ghosts = 0;             /* a process has been stopped, and another started beside it */
byte ghost;                 /* on whom the first still counts */
bit ghost_ready = 0;        /* a majority holds the claim it is about to submit */
bit ghost_fresh = 0;
bit asked = 0;              /* a request is under way */

hidden byte x, y, z;

inline resign(v) {
  role[v] = follower; DROP(fresh, v);
  if :: v < REGIONS -> votes[v] = 0; rely[v] = 0; DROP(told, v) :: else -> skip fi
}

/* What can make no difference any more is forgotten, so that there are fewer states to tell apart. */
inline tidy() {
  if :: !MANY(ghost) -> ghost_ready = 0; ghost_fresh = 0 :: else -> skip fi;
  y = 1;
  do
  :: y <= EPOCHS ->
     x = 0;
     do
     :: x < REGIONS ->
        z = 0;
        do :: z < N && (z == x || !NEWER(y, z)) -> z++ :: else -> break od;
        if :: z == N -> DROP(stood[x], y) :: else -> skip fi;
        x++
     :: else -> break
     od;
     z = 0;
     do
     :: z < N && (z == owned[y] || y < promised[z] || (y == promised[z] && granted[z] == owned[y])) -> z++
     :: else -> break
     od;
     if :: z == N -> owned[y] = NOBODY :: else -> skip fi;
     y++
  :: else -> break
  od;
  z = 0;
  do
  :: z < N ->
     x = granted[z];
     if
     :: x == NOBODY || owned[promised[z]] == x -> skip
     :: else -> if :: role[x] != follower && promised[x] == promised[z] -> skip :: else -> granted[z] = NOBODY fi
     fi;
     z++
  :: else -> break
  od;
  x = 0; y = 0; z = 0
}

inline at_most_one_may_submit() {
  z = MANY(ghost); x = 0;
  do :: x < REGIONS -> z = z + MANY(rely[x]); x++ :: else -> break od;
  assert(z <= 1)
}

inline request() { assert(!asked); asked = 1 }

/* stand for an epoch after all that are known of, be they few */
#define STAND(r, e) :: d_step { HAS(free, r) && role[r] == follower && e > promised[r] -> \
  promised[r] = e; granted[r] = r; role[r] = candidate; DROP(free, r); ADD(stood[r], e); \
  votes[r] = 1 << r; if :: HAS(knows, r) -> ADD(told, r) :: else -> skip fi; tidy() }

/* vote for one who stood, be it long ago */
#define VOTE(v, r, e) :: d_step { v != r && HAS(stood[r], e) && NEWER(e, v) && MAY_VOTE(v) -> \
  resign(v); promised[v] = e; granted[v] = r; DROP(free, v); \
  if \
  :: role[r] == candidate && promised[r] == e -> \
     ADD(votes[r], v); if :: HAS(knows, v) -> ADD(told, r) :: else -> skip fi \
  :: else -> skip \
  fi; tidy() }

/* follow one who owned, be it long ago */
#define FOLLOW(v, e) :: d_step { owned[e] != NOBODY && owned[e] != v && \
  (e > promised[v] || (e == promised[v] && granted[v] != owned[e])) -> \
  resign(v); promised[v] = e; granted[v] = owned[e]; DROP(free, v); tidy() }

/* be elected */
#define WIN(r) :: d_step { role[r] == candidate && MANY(votes[r]) && \
  (!HAS(told, r) || HAS(knows, r) || !CATCHES_UP) -> \
  assert(owned[promised[r]] == NOBODY); \
  role[r] = owner; owned[promised[r]] = r; votes[r] = 0; DROP(told, r); tidy() }

/* count on a voter that listens, and has not waited in vain since */
#define RELY(r, v) :: d_step { role[r] == owner && promised[v] == promised[r] && granted[v] == r && !HAS(free, v) && \
  !HAS(rely[r], v) -> ADD(rely[r], v); at_most_one_may_submit(); tidy() }

/* and no more */
#define LAPSE(r, v) :: d_step { HAS(rely[r], v) -> DROP(rely[r], v); tidy() }
#define GHOST_LAPSE(v) :: d_step { HAS(ghost, v) -> DROP(ghost, v); tidy() }

/* have waited long enough */
#define WAIT(v) :: d_step { !HAS(free, v) && !HAS(ghost, v) && !HAS(rely[0], v) && !HAS(rely[1], v) && \
  !HAS(rely[REGIONS - 1], v) -> ADD(free, v); tidy() }

/* give up, hand over, or die and start again: what was said stays said */
#define RESTART(r) :: d_step { role[r] != follower || HAS(free, r) -> resign(r); DROP(free, r); tidy() }

/* be stopped, while another process starts */
#define HAUNT(r) :: d_step { role[r] == owner && !ghosts -> \
  ghosts = 1; ghost = rely[r]; ghost_ready = HAS(knows, r) && (MANY(knows) || !COMMITS); ghost_fresh = HAS(fresh, r); \
  resign(r); DROP(free, r); tidy() }

/* a claim is mirrored, said again, or supplied */
#define HEAR(v) :: d_step { knows != 0 && !HAS(knows, v) -> ADD(knows, v); tidy() }

#define CLAIM(r) :: d_step { role[r] == owner && !HAS(knows, r) -> ADD(knows, r); ADD(fresh, r); tidy() }

#define SUBMIT(r) :: d_step { role[r] == owner && HAS(knows, r) && (MANY(knows) || !COMMITS) && MANY(rely[r]) && \
  (HAS(fresh, r) || !asked || !HIDES) -> DROP(fresh, r); request(); tidy() }

#if REGIONS > 2
#define REGION(what) what(0) what(1) what(2)
#else
#define REGION(what) what(0) what(1)
#endif
#if N > 3
#define MEMBER(what) what(0) what(1) what(2) what(3)
#define OTHERS(what, r) what(r, 0) what(r, 1) what(r, 2) what(r, 3)
#define VOTERS(r, e) VOTE(0, r, e) VOTE(1, r, e) VOTE(2, r, e) VOTE(3, r, e)
#elif N > 2
#define MEMBER(what) what(0) what(1) what(2)
#define OTHERS(what, r) what(r, 0) what(r, 1) what(r, 2)
#define VOTERS(r, e) VOTE(0, r, e) VOTE(1, r, e) VOTE(2, r, e)
#else
#define MEMBER(what) what(0) what(1)
#define OTHERS(what, r) what(r, 0) what(r, 1)
#define VOTERS(r, e) VOTE(0, r, e) VOTE(1, r, e)
#endif
#if EPOCHS > 2
#define EPOCH(what, x) what(x, 1) what(x, 2) what(x, 3)
#else
#define EPOCH(what, x) what(x, 1) what(x, 2)
#endif
#define STANDS(r) EPOCH(STAND, r)
#define FOLLOWS(v) EPOCH(FOLLOW, v)
#define ELECTION(r) EPOCH(VOTERS, r)
#define RELIES(r) OTHERS(RELY, r)
#define LAPSES(r) OTHERS(LAPSE, r)

init {
  d_step {
    do
    :: x < N -> granted[x] = NOBODY; ADD(free, x); role[x] = follower; x++
    :: else -> break
    od;
    do :: y <= EPOCHS -> owned[y] = NOBODY; y++ :: else -> break od;
    x = 0; y = 0
  }
  do
  REGION(STANDS)
  REGION(ELECTION)
  MEMBER(FOLLOWS)
  REGION(WIN)
  REGION(RELIES)
  REGION(LAPSES)
  MEMBER(GHOST_LAPSE)
  MEMBER(WAIT)
  REGION(RESTART)
  REGION(HAUNT)
  MEMBER(HEAR)
  REGION(CLAIM)
  REGION(SUBMIT)
  :: d_step { /* who was stopped goes on with what it was about to do */
       ghost_ready && MANY(ghost) && (ghost_fresh || !asked || !HIDES) -> ghost_ready = 0; ghost_fresh = 0;
       request(); tidy() }
  od
}
